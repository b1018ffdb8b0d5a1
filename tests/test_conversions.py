import copy
import pickle
import threading

import torch

from gan_lab.conversions import Conversions, kept


def parameter():
    return torch.nn.Parameter(torch.ones(3))


def twice(weight, what_for=""):
    return kept(weight, what_for, lambda _: 2 * weight)


def test_a_form_is_made_once_until_its_weight_changes():
    weight, other, conversions = parameter(), parameter(), Conversions()
    assert twice(weight) is not twice(weight)
    with conversions.in_use("cpu", False):
        form, another = twice(weight), twice(other)
        assert twice(weight) is form is not another
        assert twice(weight, "another") is not form
        conversions.forget([weight])
        changed = twice(weight)
        assert changed is not form
        assert twice(other) is another
    assert twice(weight) is not twice(weight)
    with conversions.in_use("cpu", False):
        assert twice(weight) is changed
        with torch.no_grad():
            weight.add_(1)
        assert twice(weight).tolist() == [4, 4, 4]


def test_fused_optimizers_leave_no_sign_of_a_change():
    """Hence `forget`; should this fail one day, it is needed no more."""
    weight = parameter()
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.sum().backward()
    version = weight._version
    optimizer.step()
    assert weight[0] != 1
    assert weight._version == version


def test_a_form_has_a_graph_for_those_who_need_it():
    weight = parameter()
    with Conversions().in_use("cpu", True):
        with torch.no_grad():
            form = twice(weight)
        assert twice(weight) is form
        form.sum().backward()
    assert weight.grad.tolist() == [2, 2, 2]
    with torch.no_grad():
        assert not twice(weight).requires_grad


def test_a_new_form_is_given_the_one_it_follows():
    weight, conversions, given = parameter(), Conversions(), []

    def form(what_for, number):
        return kept(weight, what_for, lambda before: given.append(before) or number)

    with conversions.in_use("cpu", False):
        assert [form("", 1), form("", 2), form("another", 3)] == [1, 1, 3]
        assert given == [None, None]
        for _ in range(2):  # twice without use in between
            conversions.forget([weight])
        assert [form("", 4), form("", 5)] == [4, 4]
        assert given == [None, None, 1]
        with torch.no_grad():
            weight.add_(1)
        assert [form("another", 6), form("", 7)] == [6, 7]
        assert given == [None, None, 1, 3, 4]
    assert form("", 8) == 8
    assert given[-1] is None


def test_weights_that_are_computed_are_not_known_again():
    conversions = Conversions()
    with conversions.in_use("cpu", False):
        for factor in (2, 3):  # the second may lie where the first did
            assert twice(parameter() * factor).tolist() == [2 * factor] * 3
            with torch.no_grad():
                assert twice(parameter() * factor).tolist() == [2 * factor] * 3
    assert not conversions.known  # where they would pile up


def test_a_weight_where_another_was_is_another():
    conversions = Conversions()
    with conversions.in_use("cpu", False):
        weight, other = parameter(), parameter()
        twice(weight)
        conversions.known[id(other)] = conversions.known[id(weight)]
        with torch.no_grad():
            other.data.mul_(5)  # unseen
        assert twice(other).tolist() == [10] * 3


def test_each_thread_and_each_context_keeps_its_own():
    weight = parameter()
    elsewhere = []

    def look():
        elsewhere.extend([twice(weight), twice(weight)])

    with Conversions().in_use("cpu", False):
        first = twice(weight)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        with Conversions().in_use("cpu", False):
            assert twice(weight) is not first
        assert twice(weight) is first
    assert len({id(one) for one in (first, *elsewhere)}) == 3


def test_copies_are_empty():
    conversions = Conversions()
    with conversions.in_use("cpu", False):
        twice(parameter())
    assert conversions.known
    assert not copy.deepcopy(conversions).known
    assert not pickle.loads(pickle.dumps(conversions)).known


def test_autocasts_copies_last_as_long_and_are_forgotten_too():
    weight, conversions = torch.nn.Parameter(torch.ones(2, 2)), Conversions()

    def product():
        with torch.autocast("cpu", torch.bfloat16):
            return (torch.ones(2, 2) @ weight)[0, 0].item()

    with conversions.in_use("cpu", True):
        assert not torch.is_autocast_enabled("cpu")
        assert product() == 2
        with torch.no_grad():
            weight.mul_(2)
        assert product() == 2
        conversions.forget([weight])
        assert product() == 4
        with torch.no_grad():
            weight.mul_(2)
        assert product() == 4
    assert product() == 8
