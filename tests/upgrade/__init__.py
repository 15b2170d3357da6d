"""The code of a former release beside the present one, as during a rolling upgrade and a rollback."""
