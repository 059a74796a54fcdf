"""Dashboards and alert rules as code: `make docs dashboards` renders them into the chart and docs/."""
