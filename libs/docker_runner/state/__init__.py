"""The persistent state of bots: restore it before a start, save it when it changed, keep its versions."""
