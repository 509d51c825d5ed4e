"""What the commands do: one room per subject, one plain function per verb, with the same words as the options.

    from ntkcli.steps.features.featurize import featurize

Also score.score, select.select, finetune.finetune, evaluate.evaluate and info.info. Nothing here prints, exits, or
imports torch before it must.
"""
