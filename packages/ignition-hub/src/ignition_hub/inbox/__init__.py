"""News for people: the inbox and e-mail."""
