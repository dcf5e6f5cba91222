"""Whether the choice of the layers mattered: matched adapters on other layers, compared with the chosen range.

`plan` lists the arms, `run` trains and asks them one after the other, and `arm_files` holds each arm's answers on disk.
`metrics` computes the metrics with bootstrap draws, `regret` compares the chosen range with the best window,
`profile_validity` asks whether the layer profile predicted the results, `conclusion` writes sentences, and `result`
holds it all. Other packages import `run.ablate_saved`, `plan.AblationSettings` and `result.Ablation`.
"""
