"""The sandbox of a bot: what its container may use, see and reach."""
