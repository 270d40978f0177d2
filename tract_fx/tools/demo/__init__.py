"""The `tract-fx demo` command: a small ResNet and a small ViT, trained plain and with TrAct, side by side."""
