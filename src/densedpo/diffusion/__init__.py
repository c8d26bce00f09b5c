"""Pure maths of diffusion: interpolation, targets, grids, sampling, guided starts. Tensors in, tensors out."""
