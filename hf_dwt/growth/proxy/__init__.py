"""Proxies: tiny models of the teacher's class, on which a growth is found and proven."""
