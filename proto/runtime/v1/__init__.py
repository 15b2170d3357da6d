"""The master-worker protocol; its modules are generated from the `.proto` files by the build."""
