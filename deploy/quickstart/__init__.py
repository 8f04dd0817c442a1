"""The quickstart world: digits on coloured tags in photographs, and a model that reads them.

    sources             photographs and handwritten digits that ship in packages
    scenes              tags with digits, in a window of a photograph
    dataset             writes the dataset folder
    own                 makes it once, in a cache folder of the checkout
    model, processor    a Qwen3-VL of 1.4 million parameters
    lessons, teaching, pixels, pretrain    how its starting checkpoint is made
    measure             how well a checkpoint reads held-out scenes

checkpoint/ is that starting checkpoint. Labels are used in `lessons`, for it, and nowhere else.
"""
