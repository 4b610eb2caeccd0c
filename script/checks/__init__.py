# SPDX-License-Identifier: Apache-2.0
"""The checks behind script/check: one module each, with a function check(tree)."""
