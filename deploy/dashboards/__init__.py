"""Grafana dashboards as code: ``python -m dashboards`` (with deploy/ on the path) writes them as JSON.

The signals' panels come from the table of signals, so that a new signal has its panel. The pages are
written with Grafana's foundation SDK; ``make dashboards`` writes them, and a test of ``make test`` fails
where they are stale.
"""
