"""The LightningModules that ask a pretrained network and train nothing."""
