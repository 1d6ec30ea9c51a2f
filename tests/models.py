"""Real models for tests, small and seeded."""

from pathlib import Path

import torch

from model_core.build import build_model
from model_core.costs import count_costs
from model_core.grouped import HierarchicalEnsemble
from model_core.package import EnsembleFigures, Preprocessing
from model_core.zoo import architecture
from training.export import export_package


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


def exported(model: HierarchicalEnsemble, root: Path) -> Path:
    """A package of a model; its accuracy table is made up, its costs are not."""
    flops = count_costs(model).cumulative_flops
    table = [
        EnsembleFigures(
            ensemble_size=size,
            flops=flops[size],
            accuracy=0.9 - 0.1 / size,
            nll=0.5,
            ece=0.02,
            temperature=1 + size / 20,
        )
        for size in model.tree.ensemble_sizes
    ]
    export_package(
        model,
        root,
        name=root.name,
        version="test",
        class_names=[f"class {index}" for index in range(model.spec.classes)],
        preprocessing=Preprocessing(resize_to_cover=(32, 32), mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)),
        table=table,
        evaluated_on="nothing: seeded random weights",
        training={"loss": "none"},
        images=torch.randn(4, *model.spec.input_shape, generator=torch.Generator().manual_seed(1)),
    )
    return root
