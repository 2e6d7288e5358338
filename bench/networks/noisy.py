"""An LSTM layer under DropConnect and noise: regularisers of training that know nothing of formats.

DropConnect on both weight matrices, one mask a call (Merity, Keskar and Socher, "Regularizing and optimizing LSTM
language models", 2017). Noise on the pre-activations, new in every step, by the norm of each row's weights (as
multiplicative weight noise, drawn locally as in Kingma, Salimans and Welling, "Variational dropout and the local
reparameterization trick", 2015): it comes in as `NOISE_INPUTS` further inputs with random weights.
"""

from __future__ import annotations

from typing import Any

NOISE_INPUTS = 32


def one_bias(lstm: Any) -> None:
    """Leave the layer one bias that learns, as in the exported network: two would learn twice as fast."""
    import torch

    with torch.no_grad():
        lstm.bias_ih_l0 += lstm.bias_hh_l0
        lstm.bias_hh_l0.zero_()
    lstm.bias_hh_l0.requires_grad_(False)


def run(
    lstm: Any, x: Any, drop_connect: float, noise: float, state: tuple[Any, Any] | None = None
) -> tuple[Any, tuple[Any, Any]]:
    """Outputs and state of the layer with masks and noise drawn anew.

    Parameters
    ----------
    lstm : torch.nn.LSTM
        One layer, one direction, batch first.
    x : torch.Tensor
        float32 `[batch, time, inputs]`.
    drop_connect : float
        Share of the weights that a mask leaves out; the others grow accordingly.
    noise : float
        Standard deviation of the noise over the norm of the row's weights.
    state : pair of torch.Tensor, optional
        h and c before the first step, float32 `[1, batch, hidden]` each; zero by default.

    Returns
    -------
    float32 `[batch, time, hidden]`, and h and c after the last step.
    """
    import torch

    drop = torch.nn.functional.dropout
    if state is None:
        state = (torch.zeros(1, len(x), lstm.hidden_size),) * 2
    dropped = drop(lstm.weight_ih_l0, drop_connect), drop(lstm.weight_hh_l0, drop_connect)
    squares = [weight.detach().square().sum(1, keepdim=True) for weight in (lstm.weight_hh_l0, lstm.weight_ih_l0)]
    norm = (squares[0] + squares[1]).sqrt()
    noise_weights = torch.randn(len(norm), NOISE_INPUTS) * (noise / NOISE_INPUTS**0.5) * norm
    weights = [torch.cat([dropped[0], noise_weights], 1), dropped[1]]
    x = torch.cat([x, torch.randn(*x.shape[:2], NOISE_INPUTS)], 2)
    biases = [lstm.bias_ih_l0, lstm.bias_hh_l0]
    output, *after = torch.lstm(x, state, weights + biases, True, 1, 0.0, True, False, True)
    return output, (after[0], after[1])
