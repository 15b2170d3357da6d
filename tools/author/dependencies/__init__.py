"""Build what a bot depends on inside its own image: Python packages, Node modules, JavaScript from TypeScript."""
