import torch

from robotics.policy import distilling
from robotics.policy.distilling import StudentTrainer, student_training
from robotics.policy.files import load_policy
from tests.robotics.policy.test_policy import small_policy
from tests.robotics.policy.test_training import MLP, circles


def test_student_starts_from_the_teacher_learns_and_is_an_ordinary_policy(tmp_path):
    teacher = small_policy(MLP, scale=0.5)
    quick = {"batch": 32, "warmup": 2, "learning_rate": 1e-2, "average": 0.9}
    settings = student_training("robotics/student", teacher, steps=60).model_copy(update=quick)
    trainer = StudentTrainer(teacher, settings, circles(), tmp_path, calls=4)
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(trainer.network.state_dict()[name], value)
    before = trainer.validate()["validation_loss"]
    trainer.run()
    assert trainer.validate()["validation_loss"] < 0.97 * before
    trainer.export(tmp_path / "student.safetensors")
    student = load_policy(tmp_path / "student.safetensors")
    assert student.config == teacher.config.model_copy(update={"prediction": "v"})
    assert torch.equal(student.action.scale, teacher.action.scale)
    assert torch.equal(student.observation.offset, teacher.observation.offset)


def test_half_of_a_batch_starts_from_pure_noise_and_the_others_where_their_entries_say(tmp_path, monkeypatch):
    asked = []

    def keep(own, theirs, process, actions, noise, level, *, calls):
        asked.append(level)
        return torch.zeros(len(level))

    monkeypatch.setattr(distilling, "trajectory_loss", keep)
    teacher = small_policy(MLP, scale=0.5)
    trainer = StudentTrainer(teacher, student_training("robotics/student", teacher, steps=1), circles(), tmp_path)
    steps, entry = teacher.process.steps, torch.tensor([3, 4, 5, 6])
    trainer._loss(trainer._train[:4], entry, torch.zeros(4, *teacher.shape))
    torch.testing.assert_close(asked[0], torch.tensor([1, 1, 6 / steps, 7 / steps], dtype=torch.float64))
