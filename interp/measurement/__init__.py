"""The forward engine: answer margins and residuals of many prompts, with or without clamps, patches and occlusions."""
