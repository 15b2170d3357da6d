"""Small pieces for asyncio: waking, gathering, retrying, cancelling, blocking calls in threads."""
