"""UA-3DTalk's deformation networks (paper sec 2.2 and 2.3): plain reference, trainable modules, fast inference."""
