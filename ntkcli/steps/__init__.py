"""The Python API: one module and one plain function a verb, with the same words as the options.

    from ntkcli.steps.features.featurize import featurize

Also score.score, select.select, finetune.finetune, evaluate.evaluate and info.info. Nothing here prints, exits, or
imports torch before it must.
"""
