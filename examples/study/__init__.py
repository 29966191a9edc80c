"""The study of reproduce_paper.py: what it runs, how, and what it reports."""
