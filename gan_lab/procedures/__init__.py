"""Who plays, in what order, on which tensors. A procedure is a function (gan, real) -> None over a `GAN` module."""
