"""A flow with a step for each of ``--count`` numbers that does nothing; Metaflow starts a process for each."""

from metaflow import FlowSpec, Parameter, step


class Many(FlowSpec):
    count = Parameter("count", default=10, type=int)

    @step
    def start(self):
        self.numbers = list(range(self.count))
        self.next(self.nothing, foreach="numbers")

    @step
    def nothing(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Many()
