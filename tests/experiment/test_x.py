def test_a(tiny):
    from fairtune.study.status import summary
    from fairtune.study.final import test_table
    from fairtune.study.outcome import Outcome
    print(summary(tiny.place)); o=Outcome.load(tiny.view); print(test_table(o)); print(o.verdict); print(o.to_json())
    print(tiny.view.attrs.keys())
