"""Notifications of owners and operators by webhooks."""
