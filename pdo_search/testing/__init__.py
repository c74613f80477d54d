"""Contract suites: what every task, storage and worker promises, as tests of whoever writes one.

A suite is a class whose test methods ask a fixture for the object under test. An implementation's
test derives from it and gives that fixture:

    class TestMine(StorageContract):
        @pytest.fixture
        def place(self, tmp_path):
            return Mine(tmp_path)

They are run by pytest, which the product does not need; nothing in the product imports them. For
the values in a failed assertion, ``pytest.register_assert_rewrite("pdo_search.testing")`` stands in
a ``conftest.py``.
"""
