"""How data sets lie on disk: what is there, and what it means; no picture is opened."""
