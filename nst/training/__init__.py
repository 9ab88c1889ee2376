"""The LightningModules of teacher, student and labeler, and the formulas they use."""
