"""The measuring engine: answer margins and residuals of many prompts, with clamps, patches and occlusions."""
