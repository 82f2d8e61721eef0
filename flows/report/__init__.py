"""The report: what is released for which device, as one page that needs nothing but itself.

    gather (registry) -> Report (record.py) -> charts (SVG) and page (HTML); figures for MLflow, Prefect and DVC

Everything it says comes from the registry, so it can be made wherever the registry can be read; nothing is measured for it.
The same registry gives the same bytes: no clock, no random number, no machine's name is in it.
"""
