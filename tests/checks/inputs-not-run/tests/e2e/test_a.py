def test_table():
    pass


def test_skipped():
    pass
