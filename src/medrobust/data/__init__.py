"""Labelled medical images and the tasks they belong to."""

from medrobust.data.image import from_array as from_array
from medrobust.data.image import open_image as open_image
from medrobust.data.sources import open_dataset as open_dataset
from medrobust.data.sources import shots as shots
from medrobust.data.task import Dataset as Dataset
from medrobust.data.task import Task as Task
from medrobust.data.taskfile import load_task as load_task
from medrobust.data.taskfile import task_names as task_names
