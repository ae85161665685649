"""
9.2 Output sizes at 224x224
===========================

How large are the maps after 64 filters of 7x7 (stride 2, padding 3) and after max pooling of 3x3 (stride 2)?
(:formula:`9.2`, :formula:`F19`)
"""

from striate import ConvShape, PoolShape

conv = ConvShape.of((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)
assert conv.output_shape == (1, 64, 112, 112)  # floor((224 + 6 - 7) / 2) + 1
print(conv, "->", conv.output_shape)

# %%
# Without padding the pooling makes 55, since 112 - 3 is odd and the division rounds down. ResNet pads by 1 and gets 56.

pool = PoolShape.of("max", conv.output_shape, 3, stride=2)
assert pool.output_shape == (1, 64, 55, 55)
assert PoolShape.of("max", conv.output_shape, 3, stride=2, padding=1).output_shape == (1, 64, 56, 56)
print(pool, "->", pool.output_shape)
