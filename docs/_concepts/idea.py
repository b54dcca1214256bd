"""
The idea
========

Test.
"""

# %%
import numpy as np

print(np.zeros(1))
