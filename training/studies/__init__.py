"""The paper's tables and figures, and our own, each from trained runs with one command.

command    `hne-train study NAME`
catalog    the studies: which runs each needs, and how it is drawn
fitting    leaves out what a network cannot have, before anything is trained
means      losses that are means, said in the settings of ours, which are sums
plan       a planned run: settings, and the name and digest that follow from them
conduct    trains and evaluates what is missing; interruptible anywhere
record     what was measured, gathered over seeds
published  the figures of the paper and of other systems, with their sources
tables     Markdown and JSON; `figures` SVG and PNG
"""
