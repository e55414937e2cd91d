"""Unicycle action space: (acceleration, curvature) to and from a trajectory, v0 from the history.

Formulas: docs/model.md, section 9. Knows no tokens, no cameras. Everything runs in the dtype of
its inputs (float32 in the model, float64 in checks), and nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class UnicycleAccelCurvatureActionSpace(nn.Module):
    """Normalised actions (..., 64, 2) = (acceleration, curvature) and the paths they integrate to.

    The four statistics are buffers because they come from the checkpoint: a bf16 release holds
    rounded ones, and float32 ones would move the 6.4 s path by up to 10 cm.
    """

    def __init__(
        self,
        accel_mean: float = 0.0,
        accel_std: float = 1.0,
        curvature_mean: float = 0.0,
        curvature_std: float = 1.0,
        accel_bounds: Sequence[float] = (-9.8, 9.8),
        curvature_bounds: Sequence[float] = (-0.2, 0.2),
        dt: float = 0.1,
        n_waypoints: int = 64,
        theta_lambda: float = 1e-6,
        theta_ridge: float = 1e-8,
        v_lambda: float = 1e-6,
        v_ridge: float = 1e-4,
        a_lambda: float = 1e-4,
        a_ridge: float = 1e-4,
        kappa_lambda: float = 1e-4,
        kappa_ridge: float = 1e-4,
    ) -> None:
        super().__init__()
        self.accel_mean: Tensor
        self.accel_std: Tensor
        self.curvature_mean: Tensor
        self.curvature_std: Tensor
        self.statistics = {
            'accel_mean': accel_mean,
            'accel_std': accel_std,
            'curvature_mean': curvature_mean,
            'curvature_std': curvature_std,
        }
        for name, value in self.make_buffers().items():
            self.register_buffer(name, value.to(torch.get_default_device()))
        self.accel_bounds = tuple(accel_bounds)
        self.curvature_bounds = tuple(curvature_bounds)
        self.dt = dt
        self.n_waypoints = n_waypoints
        self.theta_fit = (theta_lambda, theta_ridge)
        self.v_fit = (v_lambda, v_ridge)
        self.a_fit = (a_lambda, a_ridge)
        self.kappa_fit = (kappa_lambda, kappa_ridge)

    def make_buffers(self) -> dict[str, Tensor]:
        """Statistics of the config for a checkpoint that leaves the buffers out."""
        return {k: torch.tensor(float(v), device='cpu') for k, v in self.statistics.items()}

    def denormalise(self, action: Tensor) -> Tensor:
        """Normalised (..., 2) to acceleration m/s^2 and curvature 1/m."""
        return action * self._std(action) + self._mean(action)

    def normalise(self, action: Tensor) -> Tensor:
        """Acceleration m/s^2 and curvature 1/m (..., 2) to normalised values."""
        return (action - self._mean(action)) / self._std(action)

    def is_within_bounds(self, action: Tensor) -> Tensor:
        """Whether all waypoints of normalised (..., 64, 2) lie inside both bounds: bool (...)."""
        accel, kappa = self.denormalise(action).unbind(-1)
        inside = (accel >= self.accel_bounds[0]) & (accel <= self.accel_bounds[1])
        inside &= (kappa >= self.curvature_bounds[0]) & (kappa <= self.curvature_bounds[1])
        return inside.all(-1)

    def v0(self, hist_xyz: Tensor, hist_rot: Tensor) -> Tensor:
        """Speed (...) m/s at t0, fitted to the history (..., 16, 3) and (..., 16, 3, 3)."""
        yaw = unwrap(yaw_from_rotation(hist_rot))
        return self._fit_speeds(hist_xyz[..., :2], yaw, v_start=None)[..., -1]

    def integrate(self, action: Tensor, v0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unicycle rollout of normalised (..., 64, 2) from v0 (...) m/s, t0 frame.

        Returns xy (..., 64, 2) m, yaw (..., 64) rad and speed (..., 64) m/s; row k is
        t0 + (k + 1) * dt.
        """
        accel, kappa = self.denormalise(action).unbind(-1)
        dt = self.dt
        start = v0.unsqueeze(-1)
        v = torch.cat([start, start + torch.cumsum(accel * dt, -1)], -1)
        turn = torch.cumsum(kappa * v[..., :-1] * dt, -1)
        turn = turn + torch.cumsum(kappa * accel * (dt * dt / 2), -1)
        theta = torch.cat([torch.zeros_like(start), turn], -1)
        vx, vy = v * theta.cos(), v * theta.sin()
        xy = torch.stack(
            [torch.cumsum((c[..., :-1] + c[..., 1:]) * (dt / 2), -1) for c in (vx, vy)], -1
        )
        return xy, theta[..., 1:], v[..., 1:]

    def action_to_traj(
        self, action: Tensor, hist_xyz: Tensor, hist_rot: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Trajectory xyz (..., 64, 3) and rotation (..., 64, 3, 3) of a normalised action."""
        xy, yaw, _ = self.integrate(action, self.v0(hist_xyz, hist_rot))
        z = hist_xyz[..., -1:, 2:].expand(*xy.shape[:-1], 1)
        return torch.cat([xy, z], -1), rotation_from_yaw(yaw)

    def traj_to_action(
        self, hist_xyz: Tensor, hist_rot: Tensor, fut_xyz: Tensor, fut_rot: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Normalised action (..., 64, 2) that drives the future, by regularised least squares.

        Also returns the fitted states (..., 64, 3): speed, normalised acceleration and heading
        at the start of each interval.
        """
        dt, n = self.dt, fut_xyz.shape[-2]
        v0 = self.v0(hist_xyz, hist_rot)
        zero = torch.zeros_like(v0).unsqueeze(-1)
        target = unwrap(torch.cat([zero, yaw_from_rotation(fut_rot)], -1))[..., 1:]
        theta = torch.cat([zero, self._smooth_heading(target)], -1)
        xy = torch.cat([hist_xyz[..., -1:, :2], fut_xyz[..., :2]], -2)
        v = self._fit_speeds(xy, theta, v_start=v0)
        accel = _solve_with_ridge(
            torch.ones_like(v[..., :-1]),
            (v[..., 1:] - v[..., :-1]) / dt,
            _penalty(n, 2, self.a_fit[0] / dt**4, v),
            self.a_fit[1],
        )
        arc = dt * v[..., :-1] + dt * dt / 2 * accel
        turn = theta[..., 1:] - theta[..., :-1]
        kappa = _solve_with_ridge(
            arc, turn, _penalty(n, 2, self.kappa_fit[0] / dt**4, v), self.kappa_fit[1]
        )
        action = self.normalise(torch.stack([accel, kappa], -1))
        return action, torch.stack([v[..., :-1], action[..., 0], theta[..., :-1]], -1)

    def _mean(self, like: Tensor) -> Tensor:
        return torch.stack([self.accel_mean, self.curvature_mean]).to(like)

    def _std(self, like: Tensor) -> Tensor:
        return torch.stack([self.accel_std, self.curvature_std]).to(like)

    def _smooth_heading(self, target: Tensor) -> Tensor:
        """Headings 1..n where heading 0 is 0: the first column of D3 [0, theta] drops out."""
        n = target.shape[-1]
        lam, ridge = self.theta_fit
        d3 = _difference(n + 1, 3, target)[:, 1:]
        eye = torch.eye(n, dtype=target.dtype, device=target.device)
        normal = eye * (1 + ridge) + lam / self.dt**6 * d3.T @ d3
        return _cholesky_solve(normal, target)

    def _fit_speeds(self, xy: Tensor, yaw: Tensor, v_start: Tensor | None) -> Tensor:
        """Speeds (..., N+1) at poses xy (..., N+1, 2), yaw (..., N+1); v_start fixes the first.

        Minimises |v_t u_t + v_{t+1} u_{t+1} - 2 dp_t/dt|^2 + lambda/dt^6 |D3 v|^2 + ridge |v|^2.
        """
        lam, ridge = self.v_fit
        n = xy.shape[-2]
        u = torch.stack([yaw.cos(), yaw.sin()], -1)  # (..., N+1, 2)
        # normal matrix of the data term: tridiagonal, each segment couples its two ends
        ones = torch.ones(n, dtype=xy.dtype, device=xy.device)
        ones[1:-1] = 2
        coupling = (u[..., :-1, :] * u[..., 1:, :]).sum(-1)
        normal = torch.diag_embed(ones.expand(xy.shape[:-1]))
        normal = normal + torch.diag_embed(coupling, 1) + torch.diag_embed(coupling, -1)
        normal = normal + _penalty(n, 3, lam / self.dt**6, xy)
        step = 2 * (xy[..., 1:, :] - xy[..., :-1, :]) / self.dt
        rhs = torch.zeros_like(yaw)
        rhs[..., :-1] += (u[..., :-1, :] * step).sum(-1)
        rhs[..., 1:] += (u[..., 1:, :] * step).sum(-1)
        eye = torch.eye(n, dtype=xy.dtype, device=xy.device)
        if v_start is None:
            return _cholesky_solve(normal + ridge * eye, rhs)
        rest = rhs[..., 1:] - normal[..., 1:, 0] * v_start.unsqueeze(-1)
        v = _cholesky_solve(normal[..., 1:, 1:] + ridge * eye[1:, 1:], rest)
        return torch.cat([v_start.unsqueeze(-1), v], -1)


def yaw_from_rotation(rot: Tensor) -> Tensor:
    """Yaw (...) of rotation matrices (..., 3, 3)."""
    return torch.atan2(rot[..., 1, 0], rot[..., 0, 0])


def rotation_from_yaw(yaw: Tensor) -> Tensor:
    """Rotations (..., 3, 3) about z by yaw (...)."""
    c, s, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
    rows = [c, -s, zero, s, c, zero, zero, zero, torch.ones_like(yaw)]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def wrap(angle: Tensor) -> Tensor:
    """Angle in (-pi, pi]."""
    return torch.atan2(angle.sin(), angle.cos())


def unwrap(yaw: Tensor) -> Tensor:
    """Continuous angles (..., N): differences are wrapped, the first value is kept."""
    steps = wrap(yaw[..., 1:] - yaw[..., :-1])
    return torch.cat([yaw[..., :1], yaw[..., :1] + torch.cumsum(steps, -1)], -1)


def _difference(n: int, order: int, like: Tensor) -> Tensor:
    """Rows of the `order`-th finite difference of n values: [-1, 3, -3, 1] or [-1, 2, -1]."""
    row = {2: [-1.0, 2.0, -1.0], 3: [-1.0, 3.0, -3.0, 1.0]}[order]
    out = torch.zeros(n - order, n, dtype=like.dtype, device=like.device)
    for k, value in enumerate(row):
        out.diagonal(k)[:] = value
    return out


def _penalty(n: int, order: int, weight: float, like: Tensor) -> Tensor:
    d = _difference(n, order, like)
    return weight * d.T @ d


def _cholesky_solve(normal: Tensor, rhs: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(normal)
    return torch.cholesky_solve(rhs.unsqueeze(-1), factor.expand(*rhs.shape, -1)).squeeze(-1)


def _solve_with_ridge(scale: Tensor, target: Tensor, penalty: Tensor, ridge: float) -> Tensor:
    """Minimise |scale x - target|^2 + x' penalty x + ridge |x|^2.

    The ridge grows tenfold until the factorisation succeeds.
    """
    normal = torch.diag_embed(scale * scale) + penalty
    eye = torch.eye(scale.shape[-1], dtype=scale.dtype, device=scale.device)
    while True:
        factor, failed = torch.linalg.cholesky_ex(normal + ridge * eye)
        if not failed.any():
            return torch.cholesky_solve((scale * target).unsqueeze(-1), factor).squeeze(-1)
        ridge *= 10
