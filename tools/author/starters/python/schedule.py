"""A scheduled bot: runs once each time that `config["schedule"]` is due.

What `main` returns is stored in the history; an exception is a failed run.
"""


def main(id, config):
    print(f"{id} buys {config['amount']} {config['symbol']}")
    return {"bought": config["amount"]}
