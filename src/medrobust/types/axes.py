"""Tensors of this package by the names of their axes.

Legend of axes: `batch` images; `3 h w` colour channels (RGB), height, width; `dim` the joint image-text space;
`classes` in the order of the task; `texts` prompts; `words` learned context vectors; `width` of a token embedding;
`layers` of a tower whose inputs are prompted too.
"""

from jaxtyping import Float, Int
from torch import Tensor

Image = Float[Tensor, "3 h w"]  # float32 in [0, 1]; the model normalises inside
Images = Float[Tensor, "batch 3 h w"]
Labels = Int[Tensor, " batch"]
Features = Float[Tensor, "batch dim"]
Logits = Float[Tensor, "batch classes"]
Context = Float[Tensor, "words width"]  # learned vectors that stand before the class name
DeepContext = Float[Tensor, "layers _words _width"]  # what stands there at the inputs of the second and later layers
State = dict[str, Tensor]  # what a defence learned
