"""Names of torchvision's operators, where its build does not fit PyTorch's and brings none.

SGLang imports torchvision for its models of images, which no test uses. A path file lets each
Python of the environment start with this module.
"""

import sys


class _Names:
    def find_spec(self, name, path=None, target=None):
        """Find nothing, but define the names just before torchvision is imported."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.kept = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                self.kept.define(operator + boxes)
            sys.modules[__name__].names = self
        return None


sys.meta_path.insert(0, _Names())
