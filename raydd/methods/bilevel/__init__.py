"""Bi-level distillation: the real loss of networks that are trained on the synthetic set, differentiated. FRePo."""
