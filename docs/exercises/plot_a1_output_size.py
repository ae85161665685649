"""
A1 The output size, derived
===========================

Why is the output floor((H + 2P - K) / S) + 1 long? (:formula:`A1`, :formula:`F19`, :formula:`F22`)

On H + 2P cells the kernel may begin at 0, S, 2S and so on, up to the last place where K cells are left. Counting those
places one by one gives the formula.
"""

from striate import Window

checked = 0
for size in range(1, 15):
    for kernel in range(1, 6):
        for stride in range(1, 4):
            for padding in range(3):
                length = size + 2 * padding
                places = [start for start in range(0, length, stride) if start + kernel <= length]
                if places:
                    window = Window(kernel, stride, padding)
                    assert window.output_size(size) == len(places) == (length - kernel) // stride + 1
                    assert window.position(len(places) - 1, 0) == places[-1] - padding
                    checked += 1
print(f"{checked} cases counted")
assert checked > 500
