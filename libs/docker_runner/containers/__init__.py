"""One container's life: how it is started and stopped, why it ended, and what it leaves behind."""
