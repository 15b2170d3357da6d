"""How masters and workers prove their roles to each other: certificates and tokens, and the files that hold them."""
