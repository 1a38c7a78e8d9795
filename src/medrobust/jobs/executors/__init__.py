"""Executors: who carries out the units of a job. Each yields what was done in the order of the units."""

from medrobust.jobs.executors.here import here as here
