"""Real models for tests, small and seeded."""

import torch

from model_core.build import build_model
from model_core.grouped import HierarchicalEnsemble
from model_core.zoo import architecture


def calibrated_model(name: str, **changes: object) -> HierarchicalEnsemble:
    """A named architecture, seeded, whose batch norms have seen data, so that activations have a trained scale."""
    torch.manual_seed(0)
    model = build_model(architecture(name).replace(**changes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average of the batches seen
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # residual branches start at zero: let them count
            torch.nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        model.train()(torch.randn(16, *model.spec.input_shape))
    return model.eval()
