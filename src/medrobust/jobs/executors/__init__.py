"""Executors of a job's units. Each yields the results in the order of the units."""

from medrobust.jobs.executors.here import here as here
