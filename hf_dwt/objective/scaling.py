"""How the size of the soft term follows the temperature."""

from ..parts import Part, Reference, paper, registry

Scaling = Part[[float], float]
"""From tau to the factor of the soft term."""

SCALINGS: dict[str, Scaling] = registry(
    Scaling(
        name="none",
        title="the paper's form",
        function=lambda tau: 1.0,
        promise="1",
        references=(paper("the scale of the soft term"),),
    ),
    Scaling(
        name="tau_squared",
        title="keeps the size of the soft term's gradient when tau changes",
        function=lambda tau: tau**2,
        promise="tau^2",
        references=(Reference("the scale of the soft term", "Knowledge Distillation", "1503.02531"),),
    ),
)
"""The factors that `soft_loss_scaling` may name: functions of the temperature."""
