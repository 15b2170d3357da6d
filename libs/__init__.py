"""Libraries that the services share. Imports point one way: services, then libs, then proto."""
