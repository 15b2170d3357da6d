"""Whole services with killed workers, lost engines, full disks, wrong clocks and hostile results: what still holds."""
