"""Did choosing these layers matter? Matched adapters on other layers, beside the chosen range.

`plan` says which arms are trained, `run` trains and asks them one after the other, `answers` keeps what each said on
disk, `outcomes` makes metrics with bootstrap draws of it, `regret` sets the chosen range beside the best window,
`worth` asks whether the layer profile told the results, `conclusion` says it in sentences, and `result` is all of it;
`display` and `interp.views.figures.ablation` show it.
"""
