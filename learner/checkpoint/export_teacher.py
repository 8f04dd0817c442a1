"""The whole teacher of a checkpoint, whose file may hold no more than what its student trains.

tensor of the file                                    it is that, with the file's adapters
no tensor, no adapter                                 it is the student's
no tensor, adapters A', B' beside the student's A, B  W = W_student + scale (B' A' - B A)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from learner.checkpoint.paths import ADAPTERS, TEACHER
from learner.checkpoint.tensor_files import Form, TensorFiles


class TeacherTensors:
    """By the names that the student's files have. Adapters are merged as those of a student are.

    Args:
        own: the teacher's file, by parameter name.
        student: of the same checkpoint.
        adapters: the student's, which its weights have merged in.
        names: parameter name -> name in the student's files, where they differ.
        scale: by which adapters count.
    """

    def __init__(
        self,
        own: TensorFiles,
        student: TensorFiles,
        adapters: Mapping[str, Tensor],
        names: Mapping[str, str],
        scale: float,
    ) -> None:
        self._own, self._student, self._adapters = own, student, adapters
        self._scale = scale
        parameters = {stored: name for name, stored in names.items()}
        self._parameter = {name: parameters.get(name, name) for name in student}
        self.forms: dict[str, Form] = {
            name: own.forms.get(parameter, student.forms[name])
            for name, parameter in self._parameter.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        parameter = self._parameter[name]
        is_own = parameter in self._own
        tensor = self._own[parameter] if is_own else self._student[name]
        adapter = parameter.removesuffix("weight") + "lora_"
        if f"{adapter}a" not in self._own:
            return tensor
        change = _product(self._own, adapter)
        if not is_own:
            change -= _product(self._adapters, adapter)
        return tensor.float() + self._scale * change


@contextmanager
def opened_teacher(
    checkpoint: Path, student_files: list[Path], names: Mapping[str, str], scale: float
) -> Iterator[TeacherTensors]:
    """The teacher of this folder.

    Raises:
        OSError, SafetensorError: a file cannot be read.
    """
    adapters = [path for path in [checkpoint / ADAPTERS] if path.is_file()]
    with (
        TensorFiles([checkpoint / TEACHER]) as own,
        TensorFiles(student_files) as student,
        TensorFiles(adapters) as of_student,
    ):
        yield TeacherTensors(own, student, of_student, names, scale)


def _product(adapters: Mapping[str, Tensor], adapter: str) -> Tensor:
    return adapters[f"{adapter}b"] @ adapters[f"{adapter}a"]
