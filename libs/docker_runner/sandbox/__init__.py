"""The walls around a bot: what its container may use, see and reach."""
